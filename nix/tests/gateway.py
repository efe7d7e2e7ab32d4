ready()
serve(backend, 8080)

with subtest("replies of the host behind the gateway go back by the router that the connection came by"):
    require_ways()

require_difference()

with subtest("the host behind reaches the world by the default gateway, with the gateway's address"):
    client.succeed("ip route add 10.0.0.10 via 203.0.113.1")
    serve(client, 8081)
    backend.succeed("traffic talk 203.0.113.100 8081")
