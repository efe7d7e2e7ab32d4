# A board's folder as Nix values. The files are the ones that image/build reads, see image/README.md.
{ lib }:
folder:
let
  name = baseNameOf folder;

  lines = file: import ./lines.nix { inherit lib; } (folder + "/${file}");
  words = line: lib.filter (word: word != "") (lib.splitString " " line);

  # `Key=Value` lines; the one section is [Partition].
  partition =
    file:
    lib.listToAttrs (
      map (
        line:
        let
          pair = lib.splitString "=" line;
        in
        lib.nameValuePair (lib.head pair) (lib.concatStringsSep "=" (lib.tail pair))
      ) (lib.filter (lib.hasInfix "=") (lines "repart.d/${file}"))
    );

  # Of ifupdown's format: the addresses of the static ports.
  stanzas = lib.foldl (
    found: line:
    let
      key = lib.head (words line);
      value = lib.concatStringsSep " " (lib.tail (words line));
      last = lib.last found;
    in
    if key == "iface" then
      found ++ [ { port = lib.head (words value); } ]
    else if found == [ ] || key == "auto" then
      found
    else
      lib.init found ++ [ (last // { ${key} = value; }) ]
  ) [ ] (lines "interfaces");
  prefixLength =
    netmask:
    let
      bits = octet: if octet == 0 then 0 else lib.mod octet 2 + bits (octet / 2);
    in
    lib.foldl' (sum: octet: sum + bits (lib.toInt octet)) 0 (lib.splitString "." netmask);
  partitions = lib.mapAttrs' (
    file: _: lib.nameValuePair (lib.removeSuffix ".conf" file) (partition file)
  ) (builtins.readDir (folder + "/repart.d"));
in
{
  inherit name partitions;
  system =
    {
      root-x86-64 = "x86_64-linux";
      root-arm64 = "aarch64-linux";
    }
    .${partitions."20-root".Type};
  cmdline = lib.concatMap words (lines "cmdline");
  # Drivers: what the boot takes, and the ports'.
  modules = lib.unique (
    map (line: lib.head (words line)) (lines "modules")
    ++ map (line: lib.elemAt (words line) 1) (lines "ports")
  );
  addresses = map (stanza: stanza // { prefixLength = prefixLength stanza.netmask; }) (
    lib.filter (stanza: stanza ? address) stanzas
  );
  policy = lib.importTOML (folder + "/policy.toml");
}
