# What a developer or a first user needs; `make` alone prints this list.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CONSTRAINTS := constraints.txt
PIP    := $(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS)

# TORCH=cpu takes torch's wheels without CUDA, from torch's own index, and no CuPy: a CPU needs neither. A local version
# such as 2.11.0+cpu is newer to pip than 2.11.0, and equal to the constraint.
# The CUDA that torch is built for: 13 of torch's own wheels, or 12. pip cannot leave out the CuPy for 13, so it is removed.
TORCH  ?= cuda
CUDA   ?= 13
ifeq ($(TORCH),cpu)
ADD    := $(BIN)/python tools/pip_install.py --extra-index-url https://download.pytorch.org/whl/cpu --without cupy
SIZES  := about 0.7 GB to download, 2.5 GB on the disk, 3 to 10 minutes
else ifeq ($(TORCH),cuda)
ADD    := $(BIN)/python tools/pip_install.py
SIZES  := about 3 GB to download, 6 GB on the disk, 5 to 15 minutes; without CUDA: make install TORCH=cpu
CUPY   := cuda$(CUDA)
else
$(error TORCH is $(TORCH); it must be cuda or cpu)
endif
ADD    += --constraint $(CONSTRAINTS) --extras
ifeq ($(TORCH)$(CUDA),cuda12)
CUPY12 = $(BIN)/python -m pip uninstall --quiet --yes cupy-cuda13x && $(PIP) --force-reinstall --no-deps cupy-cuda12x
endif

.DEFAULT_GOAL := help
.PHONY: help quickstart evidence evidence-check ablations-small ablations-gpu bench bench-guard install test test-newest gpu-test gpu-check gpu-sanitize lint docs pages-check format wheel clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: MINUTES = 5
quickstart: install  ## train the first ablation on embedded digits for MINUTES (5; all ten seeds take 12), print its table
	$(BIN)/dcnlab sweep sweeps/quickstart.yaml --out runs --minutes $(MINUTES)
	$(BIN)/dcnlab table sweeps/quickstart.yaml --runs runs
	@printf '%s\n' '' 'dcnlab is in $(BIN). In each new shell, and then for example:' '  . $(BIN)/activate' \
	    '  dcnlab list experiments' '  dcnlab report runs' '  dcnlab fit detection/own data.root=FOLDER'

# Sweeps share the trials that they have in common, because their runs lie below one folder.
SMALL := $(foreach table,table1 table3,$(foreach task,classification segmentation detection,$(table)_$(task)_small))

ablations-small: install  ## layers and dilation in all three tasks on embedded scenes (69 trials, half an hour on two cores): tables, report
	@for sweep in $(SMALL); do $(BIN)/dcnlab sweep $$sweep --out runs/small || exit; done
	@for sweep in $(SMALL); do $(BIN)/dcnlab table $$sweep --runs runs/small || exit; done
	$(BIN)/dcnlab report runs/small

# The last word of a sweep's name is the folder of its data. Weights: imagenet, which are downloaded once, none, or a
# file. Four minutes are kept for the first trial of the next sweep, which starts in any case.
GPU     := $(foreach system,deeplab_camvid rfcn_cards resnet50_flowers12,table1_$(system) table3_$(system))
DATA    ?= ../shared/data
MINUTES ?= 25
WEIGHTS ?= imagenet

ablations-gpu: install  ## the same on DATA's camvid, cards and flowers12 with ResNet-50 on a GPU, for MINUTES; again: the rest
	@mkdir -p evidence; end=$$(( $$(date +%s) + 60 * $(MINUTES) )); minutes=$(MINUTES); \
	for sweep in $(GPU); do \
	    settings="data.root=$(DATA)/$${sweep##*_} model.backbone.weights=$(WEIGHTS)"; \
	    if [ $$minutes -lt 1 ]; then echo "$$sweep: the $(MINUTES) minutes are over; run the same command to continue"; else \
	        $(BIN)/dcnlab sweep $$sweep --out runs/gpu --minutes $$minutes $$settings || exit; fi; \
	    minutes=$$(( (end - $$(date +%s)) / 60 - 4 )); \
	    if ls runs/gpu/$$sweep/*/results.json >/dev/null 2>&1; then \
	        $(BIN)/dcnlab table $$sweep --runs runs/gpu --format json $$settings > evidence/.$$sweep.json \
	            && mv evidence/.$$sweep.json evidence/$$sweep.json || exit; fi; \
	done

# Each call trains for MINUTES, and the next one continues; two of the minutes are kept for the tables.
EVIDENCE := $(foreach part,rates rates_deformable rates_controls,pretrained_$(part)_camvid)

evidence: $(VENV)/.installed-pretrained  ## the study on a pretrained backbone with DATA's camvid, for MINUTES (25); again: the rest
	@end=$$(( $$(date +%s) + 60 * $(MINUTES) )); \
	for sweep in $(EVIDENCE); do \
	    minutes=$$(( (end - $$(date +%s)) / 60 - 2 )); \
	    if [ $$minutes -lt 1 ]; then echo "$$sweep: the $(MINUTES) minutes are over; run the same command to continue"; else \
	        $(BIN)/dcnlab sweep $$sweep --out runs/evidence --minutes $$minutes data.root=$(DATA)/$${sweep##*_} || exit; fi; \
	    if ls runs/evidence/$$sweep/*/results.json >/dev/null 2>&1; then \
	        $(BIN)/dcnlab table $$sweep --runs runs/evidence data.root=$(DATA)/$${sweep##*_} || exit; fi; \
	done

evidence-check: $(VENV)/.installed-pretrained  ## train one trial of each kept sweep again: it must score the same; SWEEPS=names for these only
	@$(BIN)/python tools/evidence_check.py $(SWEEPS)

bench: MINUTES = 10
bench: $(VENV)/.installed  ## measure the CPU beside the peers for MINUTES (10), alone on the machine: the pages' tables of speed
	$(BIN)/python benchmarks/bench.py --minutes $(MINUTES) --data $(DATA)

bench-guard: $(VENV)/.installed  ## hold the main paths' instruction counts against benchmarks/results/instructions.json
	$(BIN)/python benchmarks/instructions.py --against benchmarks/results/instructions.json

install: $(VENV)/.installed  ## make a virtual environment in .venv and install dcnlab into it

test: $(VENV)/.installed-test  ## run the whole test-suite
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

NEWEST := .venv-newest
test-newest:  ## run it with Python 3.13 and the newest torch, constraints-newest.txt, in .venv-newest
	$(MAKE) test PYTHON=python3.13 VENV=$(NEWEST) CONSTRAINTS=constraints-newest.txt

gpu-test: $(VENV)/.installed-test  ## run the tests that need a CUDA GPU
	$(BIN)/python -m pytest -m gpu

# Nothing is installed into a bare machine's Python: what is missing comes from the folder wheels or the network.
gpu-check: MINUTES = 9
gpu-check:  ## nine minutes on a GPU: doctor, tests, sanitizer, speed beside the peers; one JSON, one page (DRY=1: no GPU)
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu_check.py --minutes $(MINUTES) $(if $(DRY),--dry)

gpu-sanitize: $(VENV)/.installed-test  ## run a few of them under NVIDIA's compute-sanitizer, each of its tools
	@for tool in memcheck racecheck initcheck synccheck; do \
	    compute-sanitizer --tool $$tool --error-exitcode 1 --target-processes all \
	        $(BIN)/python -m pytest -m gpu -k "sixteen_byte or nonfinite_location or random_boxes" || exit 1; \
	done

lint: $(VENV)/.installed-test  ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python tools/plain_english.py
	$(BIN)/mypy

# Offline: nothing of the site is fetched by the build or by a reader's browser.
docs: $(VENV)/.installed-docs  ## build the pages into site/, offline; a warning is an error
	$(BIN)/python tools/config_keys.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	$(BIN)/python tools/links.py --site site
	@! grep -rE '<(script|link|img)[^>]+(src|href)="?https?:' site || { echo 'site/ would fetch these from the network' >&2; exit 1; }

# Hours for all of them; PAGES='README.md docs/data.md' for these only.
pages-check: $(VENV)/.installed-test  ## run the commands of the pages, each page in an empty folder, on tiny data; PAGES=files for these only
	@$(BIN)/python tools/run_pages.py $(PAGES)

format: $(VENV)/.installed-test  ## put the code in its one form
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

wheel: $(VENV)/.installed-test  ## build a wheel into dist/
	$(BIN)/python -m build --wheel

clean:  ## remove the environment and what was built; runs/ stays
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) | $(VENV)/.made
	@echo 'installing into $(VENV): $(SIZES)'
	$(ADD) '$(CUPY)'
	$(CUPY12)
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(CONSTRAINTS) | $(VENV)/.made
	$(ADD) 'test,$(CUPY)'
	$(CUPY12)
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-pretrained: pyproject.toml $(CONSTRAINTS) | $(VENV)/.made
	$(ADD) 'pretrained,$(CUPY)'
	$(CUPY12)
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml $(CONSTRAINTS) | $(VENV)/.made
	$(ADD) 'docs,$(CUPY)'
	$(CUPY12)
	@touch $@ $(VENV)/.installed

# What `make lint`, `make docs` and `make test` need, by one call of pip.
$(VENV)/.installed-all: pyproject.toml $(CONSTRAINTS) | $(VENV)/.made
	$(ADD) 'docs,test,$(CUPY)'
	$(CUPY12)
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test $(VENV)/.installed-docs

# A folder without pip is what a killed `python -m venv` leaves: it is made again.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(f"dcnlab needs Python 3.11 or newer, this is {sys.version.split()[0]}: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); } || { rm -rf $(VENV); echo 'Python lacks venv or pip: on Debian and Ubuntu, apt-get install python3-venv' >&2; exit 2; }
	@touch $@
