# Every target sets itself up first; the second time that takes no time.
SHELL := /bin/bash
PYTHON := .venv/bin/python
DUET := .venv/bin/duet
# Results are written to folders of the user's, whoever measures, so that the user may write there, too.
# What runs as root leaves no byte code behind that the user could not remove; set-up has compiled all there is.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo env PATH="$$PATH:/usr/sbin:/sbin" PYTHONDONTWRITEBYTECODE=1 \
	$(if $(DUET_TESTBED),DUET_TESTBED="$$DUET_TESTBED"))
TARGET ?= xdp
SW ?= tor1

MADE := .venv .venv-shell build dist duet_p4/bpf/objects results .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage *.egg-info
REMOVE = sh -c 'rm -rf $(MADE) && find . -name __pycache__ -type d -prune -exec rm -rf {} +'

.DEFAULT_GOAL := help
# First root, then set-up.
.NOTPARALLEL:
.PHONY: help root setup wheel testbed test ptf vectors stf fuzz p4fuzz p4 page journeys bench experiments simulate shell lint clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

root:
	@scripts/need-root "network namespaces and BPF programs need root"

setup:  ## Install what is missing: system packages, a virtual environment, locked Python packages
	@scripts/setup

wheel: setup  ## Make a wheel, with eBPF objects for every machine, in dist/
	@$(PYTHON) -m mininet_topos.shipped --any-machine
	@rm -rf build/lib build/bdist.* dist
	@$(PYTHON) -m pip wheel -q --disable-pip-version-check --no-build-isolation --no-deps -w dist .

testbed: root setup  ## Bring up the paper's testbed, check it, and open its shell (TARGET=xdp or bmv2)
	@$(SUDO) $(DUET) testbed run --target $(TARGET)

test: setup  ## Lint, types and every test (COVERAGE=1: and what no test reaches)
	@scripts/browser
	@scripts/test

journeys: root setup  ## What people do on the web page, in a real browser; takes the pictures of docs/tour.md anew
	@scripts/browser
	@$(SUDO) $(PYTHON) -m pytest -q -rs tests/integration/test_journeys.py
	@cat results/journeys/figures.json
	@for picture in docs/pictures/*.png; do cp "results/journeys/$${picture##*/}" "$$picture"; done
	@cp controller/web/static/sources.sha256 docs/pictures/

ptf: root setup  ## Packet tests of hmux.p4 (TARGET=xdp, bmv2, or tofino-model with CONF=what the compiler wrote)
	@$(SUDO) $(PYTHON) -m ptf_tests --target $(TARGET) $(if $(CONF),--conf $(CONF))

vectors: setup  ## Record what BMv2 does with thousands of frames, where it is on PATH
	@$(PYTHON) -m ptf_tests.conformance record
	@$(SUDO) $(PYTHON) -m ptf_tests.conformance ways

stf: root setup  ## p4c's STF tests on xdp, where p4c is on PATH (P4C=its source folder)
	@$(SUDO) $(DUET) p4 stf "$(or $(P4C),$(error say where p4c's source is: make stf P4C=FOLDER))/testdata/p4_16_samples"

fuzz: root setup  ## Send 100,000 random frames to HMux and SMux, and to BMv2 and xdp, and compare
	@$(SUDO) $(PYTHON) -m ptf_tests.conformance muxes
	@$(SUDO) $(PYTHON) -m ptf_tests.conformance fuzz

p4fuzz: root setup  ## Write 400,000 random updates by P4Runtime, and compare each answer with a model's
	@$(SUDO) $(PYTHON) -m ptf_tests.fuzzer $(if $(P4C),--p4 $(P4C)/testdata/p4_16_samples/pins/pins_middleblock.p4)

p4: setup  ## Compile the P4 program, where p4c is on PATH (TARGET=tofino: for Tofino)
	@scripts/p4 $(TARGET)

page:  ## Build the web page, where Node.js is on PATH
	@scripts/page

bench: root setup  ## Measure the data plane, the control plane, the assignment and the controller's size
	@mkdir -p results/bench
	@$(SUDO) $(DUET) bench dataplane --out results/bench
	@$(SUDO) $(DUET) bench middleblock --out results/bench $(if $(P4C),--p4 $(P4C)/testdata/p4_16_samples/pins/pins_middleblock.p4)
	@$(SUDO) $(DUET) bench control --out results/bench
	@$(DUET) bench assignment --out results/bench
	@$(SUDO) $(DUET) bench scale --out results/bench

experiments: root setup  ## The paper's testbed experiments, with plots
	@mkdir -p results/experiments
	@$(SUDO) $(DUET) experiment all --out results/experiments

simulate: setup  ## The paper's large-scale simulations, with plots
	@mkdir -p results/simulations
	@$(DUET) simulate all --scale paper --out results/simulations

shell: root setup  ## Open p4runtime-shell on a switch of the running testbed (SW=tor1)
	@$(SUDO) scripts/p4runtime-shell $(SW)

lint: setup  ## Formatting, lint and types
	@scripts/lint

clean:  ## Remove what set-up, tests and builds made in this folder
	@$(REMOVE) 2>/dev/null || { scripts/need-root "only root may remove what root made" && $(SUDO) $(REMOVE); }
