# The builder of every derivation: what nixpkgs' stdenv offers to the commands of this tree.
set -euo pipefail
shopt -s nullglob
export PATH=$inputPath:$machinePath
cd "$NIX_BUILD_TOP"

runHook() { eval "${!1:-}"; }

installManPage() {
    local page
    [ $# -gt 0 ] || { echo "installManPage: no page was named, or none exists" >&2; return 1; }
    for page; do
        install -Dm644 "$page" "$out/share/man/man${page##*.}/$(basename "$page")"
    done
}

# installShellCompletion (--bash|--zsh|--fish|--name NAME|FILE)...
installShellCompletion() {
    local shell='' name='' folder
    while [ $# -gt 0 ]; do
        case $1 in
            --bash | --zsh | --fish) shell=${1#--} ;;
            --name) name=$2; shift ;;
            *)
                case $shell in
                    bash) folder=bash-completion/completions ;;
                    zsh) folder=zsh/site-functions ;;
                    fish) folder=fish/vendor_completions.d ;;
                    *) echo "installShellCompletion: say --bash, --zsh or --fish before $1" >&2; return 1 ;;
                esac
                install -Dm644 "$1" "$out/share/$folder/${name:-$(basename "$1")}"
                name=
                ;;
        esac
        shift
    done
}

# A program of this machine, by its name, at $out/bin.
linkProgram() {
    local found
    found=$(command -v "$1") || { echo "$name: this machine has no program $1; install it" >&2; return 1; }
    mkdir -p "$out/bin"
    ln -s "$found" "$out/bin/$1"
}

# The binaries of a Rust package, at $out/bin: built by this machine's cargo, not optimised, in a target folder that
# stays. $cargoFlags comes from buildRustPackage.
buildRust() {
    cp -r --no-preserve=mode,ownership "$src" source
    cd source
    export CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 # it is a new folder each time
    cargo install --quiet --locked --debug --no-track --path . --root "$out" $cargoFlags
}

# The static ones, which the stand-in can not build: taken from where image/firmware/build has put them.
takeStatic() {
    install -D "$staticPrograms/$pname" "$out/bin/$pname"
}

eval "$buildCommand"
