.DEFAULT_GOAL := help
.PHONY: help firmware test demo clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

firmware: ## build the static binary, at target/firmware/returnpath
	@image/firmware/build

test: ## install what is missing and run every check and test
	@tests/run

demo: ## show a connection through router 2 going back through router 2
	@tests/demo

clean: ## remove everything that was built or fetched
	rm -rf target
