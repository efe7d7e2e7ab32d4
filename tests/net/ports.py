"""The ports of the tests. LISTED are in the policy's services, as they arrive, before any DNAT."""

FTP = 21
WEB = 80  # gateway: forwarded to the backend's WEB_BEHIND
CLOSED = 81  # nobody listens; gateway: nobody at the backend
HOST_WEB = 443  # answered by the host itself in every layout
REDIRECTED = 444  # the host's own DNAT brings it to REDIRECTED_TO on the host, in every layout
FORWARDED = 8080  # forwarded to the backend in every layout
UDP = 5000  # gateway: forwarded to the backend
FORWARDED_UDP = 5001  # forwarded to the backend in every layout
UDP_CLOSED = 5099  # nobody listens on the host; forwarded nowhere
WEB_BEHIND = 8000
REDIRECTED_TO = 8444

UNLISTED = 8081
UNLISTED_UDP = 6000

LISTED = ("tcp/21", "tcp/80-81", "tcp/443-444", "tcp/8080", "udp/5000-5100", "icmp")
