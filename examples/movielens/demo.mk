# make demo: MovieLens 100k from ratings to early-exit scores, on a machine without a GPU. Included by the Makefile at the root.
#
# EPOCHS=1 trains half as long.

MOVIELENS := examples/movielens
DEMO := $(BUILD)/demo
EPOCHS ?= 2
POLICY := $(DEMO)/bundle/variants/cpu-fp32/policy.json

demo: $(DEMO)/summary.json
	@$(BIN)/python $(MOVIELENS)/summary.py $(DEMO) --show

$(DEMO)/data/ml-100k.inter: $(MOVIELENS)/fetch.py | $(BUILD)/.installed
	$(BIN)/python $(MOVIELENS)/fetch.py $(DEMO)/data

$(DEMO)/tokenizer/tokenizer.json: $(DEMO)/data/ml-100k.inter $(MOVIELENS)/prompt.toml \
    src/rexit/cli/tokenizer.py $$(call imports,exporter/prompt/train_tokenizer.py)
	$(BIN)/rexit tokenizer $(DEMO)/data/ml-100k.item $(DEMO)/data/ml-100k.user --template $(MOVIELENS)/prompt.toml --out $(DEMO)/tokenizer

$(DEMO)/catalog/catalog.json: $(DEMO)/tokenizer/tokenizer.json $(MOVIELENS)/prompt.toml \
    src/rexit/cli/index.py $$(call imports,exporter/index.py)
	$(BIN)/rexit index --interactions $(DEMO)/data/ml-100k.inter --items $(DEMO)/data/ml-100k.item --users $(DEMO)/data/ml-100k.user \
	  --tokenizer $(DEMO)/tokenizer --template $(MOVIELENS)/prompt.toml --positive-at 4 --out $(DEMO)/catalog

$(DEMO)/checkpoint/exits.json: $(DEMO)/catalog/catalog.json $$(call imports,$(MOVIELENS)/train.py)
# Steps of seven slates: with films as vectors they have a third of the tokens that they have in words.
	GOMP_SPINCOUNT=20000 $(BIN)/python $(MOVIELENS)/train.py --catalog $(DEMO)/catalog --out $(DEMO)/checkpoint --epochs $(EPOCHS) --batch-tokens 800

$(DEMO)/bundle/manifest.json: $(DEMO)/checkpoint/exits.json \
    src/rexit/cli/export.py src/rexit/cli/compile.py $$(call imports,exporter/export.py exporter/compile.py)
	rm -rf $(DEMO)/bundle
# Judged by all validation slates: fewer cannot tell whether the first exit of an int8 variant loses less than is allowed.
	$(BIN)/rexit export $(DEMO)/checkpoint --catalog $(DEMO)/catalog --out $(DEMO)/bundle --precision fp32,int8 --quality-slates 0
	$(BIN)/rexit export $(DEMO)/checkpoint --catalog $(DEMO)/catalog --out $(DEMO)/bundle --target tensorrt --precision fp16,int8 \
	  --quality-slates 0
# For a GPU that this machine need not have: compiled by TensorRT-RTX, not run.
	$(BIN)/rexit compile $(DEMO)/bundle --compute-capability 8.6

# What calibrates also runs the compiled runtime.
$(POLICY): $(DEMO)/bundle/manifest.json $(BUILD)/.installed src/rexit/cli/calibrate.py $$(call imports,calibration/run.py)
# As if five of twenty films were shown: the same five as at full depth, ranked as well.
	$(BIN)/rexit calibrate $(DEMO)/bundle --catalog $(DEMO)/catalog --metric ndcg@5 --metric top-k-overlap@5 --top-k 5 \
	  --max-drop 0.05 --tokenizer $(DEMO)/tokenizer

$(DEMO)/summary.json: $(POLICY) $(BUILD)/example/.built $$(call imports,$(MOVIELENS)/summary.py benchmarks/ranking/baselines.py) \
    src/rexit/cli/bench.py $$(call imports,src/rexit/measure/bench.py)
	$(BIN)/python $(MOVIELENS)/summary.py $(DEMO) --program $(BUILD)/example/rexit_score
