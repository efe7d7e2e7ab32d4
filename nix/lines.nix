# The lines of a file without comments and blank ones: the form of a board's lists, and of image/netfilter.
{ lib }:
file:
lib.filter (line: line != "") (
  map (line: lib.trim (lib.head (lib.splitString "#" line))) (
    lib.splitString "\n" (builtins.readFile file)
  )
)
