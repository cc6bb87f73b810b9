# Amazon Scientific from its zip to a table of rankings. Every step resumes where it was stopped.
#
#   make -f examples/scientific/scientific.mk ZIP=scientific.zip [OUT=build/scientific] [STEPS=700] [USERS=800]
#
# Two models on the same candidates: SmolLM2's first layers read a history and products in words, MiniLM reads
# (last titles, product) as a cross-encoder. STEPS=20 SLATES=60 USERS=40 shows in a while that all of it works.

ZIP ?= scientific.zip
OUT ?= build/scientific
BIN ?= .venv/bin
STEPS ?= 700
SLATES ?= 2800
USERS ?= 800
DRAWS ?= retrieved:100,popularity:99,uniform:99
LAYERS ?= 4
EXITS ?= 1,2,4
ENCODER_EXITS ?= 2,4,6
CANDIDATES ?= uniform:9
SERVED ?= retrieved:50
HERE := examples/scientific
PLACES := --metric ndcg@10 --max-drop 0.01
INDEX = $(BIN)/rexit index --items $(OUT)/data/items.parquet --column time=place \
  --implicit --split leave-last:1,1 --candidates $(CANDIDATES) --tokenizer $(OUT)/smollm2

.DELETE_ON_ERROR:
table: $(OUT)/table.md
	@cat $(OUT)/table.md

$(OUT)/data/items.csv:
	$(BIN)/python $(HERE)/prepare.py $(OUT)/data --from $(ZIP)

$(OUT)/smollm2/config.json:
	$(BIN)/python examples/finetune/fetch.py $(OUT)/smollm2

$(OUT)/minilm/config.json:
	$(BIN)/python examples/finetune/fetch.py $(OUT)/minilm --model minilm

$(OUT)/data/items.parquet: $(OUT)/data/items.csv $(OUT)/minilm/config.json
	$(BIN)/rexit embed $(OUT)/data/items.csv --model $(OUT)/minilm --text "{text}" --column text_vector --out $@

$(OUT)/catalog/catalog.json: $(OUT)/data/items.parquet $(OUT)/smollm2/config.json $(HERE)/prompt.toml
	$(INDEX) --interactions $(OUT)/data/purchases.csv --template $(HERE)/prompt.toml --out $(OUT)/catalog

# The same look-up whose exit zero reads no text.
$(OUT)/numbers/catalog.json: $(OUT)/catalog/catalog.json $(HERE)/numbers.toml
	$(INDEX) --interactions $(OUT)/data/purchases.csv --template $(HERE)/numbers.toml --out $(OUT)/numbers

# A decoder: history and products in words.
$(OUT)/smollm2-first/config.json: $(OUT)/smollm2/config.json
	$(BIN)/python examples/finetune/shorten.py $(OUT)/smollm2 $(OUT)/smollm2-first --layers $(LAYERS)

$(OUT)/decoder/checkpoint/exits.json: $(OUT)/smollm2-first/config.json $(OUT)/catalog/catalog.json
	$(BIN)/rexit train $(OUT)/smollm2-first --catalog $(OUT)/catalog --out $(OUT)/decoder/checkpoint --exits $(EXITS) \
	  --freeze-embeddings --rate 3e-4 --head-rate 3e-3 --slate 10 --batch-tokens 2048 --steps $(STEPS)

$(OUT)/decoder/bundle/manifest.json: $(OUT)/decoder/checkpoint/exits.json
	$(BIN)/rexit export $(OUT)/decoder/checkpoint --catalog $(OUT)/catalog --out $(OUT)/decoder/bundle

$(OUT)/decoder/bundle/variants/cpu-fp32/policy.json: $(OUT)/decoder/bundle/manifest.json
	$(BIN)/rexit calibrate $(OUT)/decoder/bundle --catalog $(OUT)/catalog $(PLACES) --max-slates $(SLATES)

# An encoder of (last titles, product), with exit zero's log-odds as the first stage's score.
$(OUT)/pairs/slates.jsonl: $(OUT)/catalog/catalog.json
	$(BIN)/python $(HERE)/pairs.py $(OUT)/catalog $(OUT)/data/items.csv $(OUT)/pairs --slates $(SLATES)

$(OUT)/encoder/checkpoint/exits.json: $(OUT)/pairs/slates.jsonl
	$(BIN)/rexit train $(OUT)/minilm --slates $(OUT)/pairs/slates.jsonl --out $(OUT)/encoder/checkpoint --exits $(ENCODER_EXITS) \
	  --rate 8e-5 --steps $(STEPS)

$(OUT)/encoder/bundle/manifest.json: $(OUT)/encoder/checkpoint/exits.json
	$(BIN)/rexit export $(OUT)/encoder/checkpoint --slates $(OUT)/pairs/slates.jsonl --out $(OUT)/encoder/bundle --with-tokenizer

$(OUT)/encoder/bundle/variants/cpu-fp32/policy.json: $(OUT)/encoder/bundle/manifest.json
	$(BIN)/rexit calibrate $(OUT)/encoder/bundle --slates $(OUT)/pairs/slates.jsonl $(PLACES)

# The same encoder in int8, with a policy for the candidates that a service ranks: those that the look-up retrieves.
$(OUT)/served/slates.jsonl: $(OUT)/catalog/catalog.json
	$(BIN)/python $(HERE)/pairs.py $(OUT)/catalog $(OUT)/data/items.csv $(OUT)/served --slates $(SLATES) --served $(SERVED)

$(OUT)/served-bundle/manifest.json: $(OUT)/encoder/checkpoint/exits.json
	$(BIN)/rexit export $(OUT)/encoder/checkpoint --slates $(OUT)/pairs/slates.jsonl --out $(@D) --precision int8 --with-tokenizer

$(OUT)/served-bundle/variants/cpu-int8/policy.json: $(OUT)/served/slates.jsonl $(OUT)/served-bundle/manifest.json
	$(BIN)/rexit calibrate $(OUT)/served-bundle --slates $< --slate $(lastword $(subst :, ,$(SERVED))) $(PLACES)

served: $(OUT)/served-bundle/variants/cpu-int8/policy.json

$(OUT)/table.md: $(OUT)/numbers/catalog.json $(OUT)/decoder/bundle/variants/cpu-fp32/policy.json \
    $(OUT)/encoder/bundle/variants/cpu-fp32/policy.json
	$(BIN)/python $(HERE)/table.py $(OUT)/catalog $(OUT)/data --numbers $(OUT)/numbers --model SmolLM2=$(OUT)/decoder/bundle \
	  --pairs MiniLM=$(OUT)/encoder/bundle --users $(USERS) --draws $(DRAWS) --json $(OUT)/table.json > $@

# A product that nobody has bought, from its text to its place in a service's ranking.
new-product: $(OUT)/decoder/bundle/variants/cpu-fp32/policy.json
	rm -rf $(OUT)/new-product
	$(BIN)/python $(HERE)/new_product.py $(OUT)/data $(OUT)/catalog $(OUT)/decoder/bundle $(OUT)/new-product \
	  --model $(OUT)/minilm --tokenizer $(OUT)/smollm2

# How products without a purchase are ranked: 400 are withheld from a catalog, and their buyers asked.
$(OUT)/withheld/purchases.csv: $(OUT)/data/items.parquet
	$(BIN)/python $(HERE)/withheld.py $(OUT)/data $(@D)

$(OUT)/withheld/catalog/catalog.json: $(OUT)/withheld/purchases.csv $(OUT)/smollm2/config.json $(HERE)/prompt.toml
	$(INDEX) --interactions $< --template $(HERE)/prompt.toml --out $(@D)

withheld: $(OUT)/withheld/catalog/catalog.json
	$(BIN)/python $(HERE)/withheld.py $(OUT)/data $(OUT)/withheld --catalog $(OUT)/withheld/catalog

.PHONY: table served new-product withheld
