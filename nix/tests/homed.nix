# Router 2 on a port of its own: strict reverse path by the kernel, and by the firewall on the backend that is named.
{
  network,
  backend,
  guard ? true,
  scripts,
  ...
}:
{
  inherit scripts;
  nodes = network.outside "second" // {
    gateway = {
      imports = [
        (network.gateway "second")
        (network.port "second" 10)
      ];
      networking.nftables.enable = backend == "nftables";
      networking.firewall.checkReversePath = true;
      boot.kernel.sysctl = {
        "net.ipv4.conf.lan.rp_filter" = 1;
        "net.ipv4.conf.second.rp_filter" = 1;
      };
      services.returnpath = {
        guard.enable = guard;
        settings.local_networks = [
          "10.0.2.0/24"
          "fd00:0:0:2::/64"
        ];
      };
    };
  };
}
