# Packages that are programs of this machine: what of them is used, the first one is what `lib.getExe` gives.
{
  bmap-tools = [ "bmaptool" ];
  cargo = [ "cargo" ];
  clippy = [ "cargo-clippy" ];
  conntrack-tools = [ "conntrack" ];
  coreutils = [
    "cat"
    "cp"
    "ls"
    "mkdir"
    "rm"
    "sleep"
    "timeout"
  ];
  deadnix = [ "deadnix" ];
  findutils = [ "find" ];
  gnugrep = [ "grep" ];
  gnused = [ "sed" ];
  iproute2 = [
    "ip"
    "ss"
    "tc"
  ];
  iptables = [
    "iptables"
    "ip6tables"
  ];
  nftables = [ "nft" ];
  nixfmt = [ "nixfmt" ];
  nixfmt-tree = [ "nixfmt" ];
  pkg-config = [ "pkg-config" ];
  python3 = [ "python3" ];
  qemu = [ "qemu-system-x86_64" ];
  ruff = [ "ruff" ];
  rustc = [ "rustc" ];
  rustfmt = [ "rustfmt" ];
  systemd = [ "systemctl" ];
  util-linux = [
    "lsblk"
    "setpriv"
  ];
}
