.DEFAULT_GOAL := help
.PHONY: help firmware image flash test bench bench-quick demo clean

export POLICY OVERLAY DISK

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

firmware: ## build the static binary, at target/firmware/returnpath
	@image/firmware/build

image: ## build a disk image: BOARD= (in board/; default qemu-x86_64), POLICY= (.toml, .bin), OVERLAY= (a tree over the root)
	@image/build $(BOARD)

flash: ## write the image of BOARD= to DEVICE= and read it back; DISK=internal for a disk that is not removable
	@image/flash "$(BOARD)" "$(DEVICE)"

test: ## install what is missing and run every check and test
	@tests/run

bench: ## measure what it costs to install, a packet, and to carry, beside its peers: 10 minutes; target/bench
	@tests/bench/prepare
	@tests/bench/run

bench-quick: ## the same with fewer sizes and rounds: 2 minutes
	@tests/bench/prepare
	@tests/bench/run --quick

demo: ## show a connection through router 2 going back through router 2
	@tests/demo

clean: ## remove everything that was built or fetched
	rm -rf target
