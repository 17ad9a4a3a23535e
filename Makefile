.PHONY: test lint types bench-quick bench book tour ci

test:        ; python -m pytest -n auto
lint:        ; python -m ruff check .
types:       ; python -m mypy
bench-quick: ; refquant bench --quick
bench:       ; refquant bench full
book:        ; python -m sphinx -W --keep-going -n -b html textbook textbook/_build/html
tour:        ; refquant tour
ci:          ; bash .ci/run
