# One command each: a venv is made and filled the first time, and again when its lists change.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --disable-pip-version-check --progress-bar off --constraint constraints.txt

.PHONY: help sweep serve doctor test test-cluster lint clean

help:
	@echo "make sweep [ARGS='--epochs 5 …']   train the four learning rates in parallel"
	@echo "make serve [ARGS='RUN …']          serve the chosen model"
	@echo "make doctor [ARGS='--cluster …']   check this machine, a cluster file, a cluster"
	@echo "make test  [ARGS='-k data …']      lint, check types, run the tests"
	@echo "make test-cluster                  ray up on pseudo-hosts, and faults (needs root, ip netns)"
	@echo "make lint                          lint and check types only"
	@echo "make clean                         remove the venv and caches (results stay)"
	@echo "PYTHON=python3.11 names the interpreter that the venv is made with"

sweep: $(VENV)/.installed
	$(RUN) -m distributed_fmlp.tune $(ARGS)

serve: $(VENV)/.installed
	$(RUN) -m distributed_fmlp.serve $(ARGS)

doctor: $(VENV)/.installed
	$(RUN) -m distributed_fmlp.doctor $(ARGS)

test: lint $(if $(filter 1,$(FMLP_WITHOUT_KSERVE)),,$(VENV)/kserve/.installed)
	$(RUN) -m pytest $(ARGS)

test-cluster: $(VENV)/.installed-test
	$(RUN) -m pytest tests/cluster -m cluster -n 0 -s $(ARGS)

lint: $(VENV)/.installed-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find distributed_fmlp tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is not Python 3.11 or newer: give one with PYTHON=…" >&2; exit 2; }
	@echo "installing into $(VENV) (a few minutes, once)"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "installing what the tests need"
	$(INSTALL) --editable '.[test]'
	@touch $@

# A client of the service that can't live with what the service itself needs. Without it (no network)
# its tests are skipped and say so, or fail where FMLP_REQUIRE names kserve; the next make test tries
# again. FMLP_WITHOUT_KSERVE=1 leaves it out.
$(VENV)/kserve/.installed: tests/serving/kserve.txt | $(VENV)/.installed-test
	@echo "installing the KServe SDK into an environment of its own (a minute, once)"
	@$(RUN) -m venv $(VENV)/kserve && \
		$(VENV)/kserve/bin/python -m pip install --disable-pip-version-check --quiet --requirement $< && \
		touch $@ || echo "the KServe SDK can't be installed now: its tests can't run" >&2
