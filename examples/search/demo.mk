# make demo-search: from an encoder that embeds texts to an early-exit reranker of Debian's packages, on a machine without a GPU.
# Included by the Makefile at the root.

SEARCH := examples/search
FOUND := $(BUILD)/demo-search
SEARCH_POLICY := $(FOUND)/bundle/variants/cpu-int8/policy.json
STEPS ?= 360

demo-search: $(FOUND)/summary.json $(FOUND)/.verified
	@$(BIN)/python $(SEARCH)/summary.py $(FOUND) --show

$(BUILD)/.bm25s: $(BUILD)/.installed
	$(BIN)/pip install --quiet "$$($(BIN)/python tools/requirements.py examples | grep ^bm25s)"
	@touch $@

$(FOUND)/minilm/config.json: examples/finetune/fetch.py | $(BUILD)/.installed
	$(BIN)/python examples/finetune/fetch.py $(FOUND)/minilm --model minilm

$(FOUND)/data/slates.jsonl: $(SEARCH)/packages.py examples/reranker/bm25.py | $(BUILD)/.bm25s
	PYTHONPATH=examples/reranker $(BIN)/python $(SEARCH)/packages.py $(FOUND)/data

$(FOUND)/checkpoint/exits.json: $(FOUND)/minilm/config.json $(FOUND)/data/slates.jsonl \
    src/rexit/doors/cli/make/train.py $$(call imports,exporter/training/fine_tuning.py)
	$(BIN)/rexit train $(FOUND)/minilm --slates $(FOUND)/data/slates.jsonl --exits 2,3,4,6 --freeze-embeddings \
	  --steps $(STEPS) --batch-tokens 2304 --out $(FOUND)/checkpoint

$(FOUND)/bundle/manifest.json: $(FOUND)/checkpoint/exits.json src/rexit/doors/cli/make/export.py $$(call imports,exporter/export.py)
	rm -rf $(FOUND)/bundle
	$(BIN)/rexit export $(FOUND)/checkpoint --slates $(FOUND)/data/slates.jsonl --exits 3,4,6 --precision fp32,int8 \
	  --quality-slates 300 --with-tokenizer --out $(FOUND)/bundle

$(SEARCH_POLICY): $(FOUND)/bundle/manifest.json $(BUILD)/.installed \
    src/rexit/doors/cli/make/calibrate.py $$(call imports,calibration/calibration.py)
	$(BIN)/rexit calibrate $(FOUND)/bundle --slates $(FOUND)/data/slates.jsonl --variant cpu-int8 --metric ndcg@10 --max-drop 0.01

$(FOUND)/summary.json: $(SEARCH_POLICY) $$(call imports,$(SEARCH)/summary.py)
	PYTHONPATH=examples/reranker $(BIN)/python $(SEARCH)/summary.py $(FOUND)

# Last, since it checks the policy, too.
$(FOUND)/.verified: $(SEARCH_POLICY) $(FOUND)/summary.json $$(call imports,src/rexit/upkeep/checks.py)
	$(BIN)/rexit verify $(FOUND)/bundle
	@touch $@
