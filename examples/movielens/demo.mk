# make demo: MovieLens 100k from ratings to early-exit scores, on a machine without a GPU. Included by the Makefile at the root.
#
# Up to a hundred films are ranked and ten shown: each like comes with nine films, drawn by popularity, that its user had not met.
# EPOCHS=0.05 trains a third as long.

MOVIELENS := examples/movielens
DEMO := $(BUILD)/demo
EPOCHS ?= 0.15
POLICY := $(DEMO)/bundle/variants/cpu-fp32/policy.json

demo: $(DEMO)/summary.json
	@$(BIN)/python $(MOVIELENS)/summary.py $(DEMO) --show

$(DEMO)/data/ml-100k.inter: $(MOVIELENS)/fetch.py | $(BUILD)/.installed
	$(BIN)/python $(MOVIELENS)/fetch.py $(DEMO)/data

$(DEMO)/tokenizer/tokenizer.json: $(DEMO)/data/ml-100k.inter $(MOVIELENS)/prompt.toml \
    src/rexit/cli/make/tokenizer.py $$(call imports,exporter/prompt/pieces.py)
	$(BIN)/rexit tokenizer $(DEMO)/data/ml-100k.item $(DEMO)/data/ml-100k.user --template $(MOVIELENS)/prompt.toml --out $(DEMO)/tokenizer

$(DEMO)/catalog/catalog.json: $(DEMO)/tokenizer/tokenizer.json $(MOVIELENS)/prompt.toml \
    src/rexit/cli/make/index.py $$(call imports,exporter/index.py)
	$(BIN)/rexit index --interactions $(DEMO)/data/ml-100k.inter --items $(DEMO)/data/ml-100k.item --users $(DEMO)/data/ml-100k.user \
	  --tokenizer $(DEMO)/tokenizer --template $(MOVIELENS)/prompt.toml --positive-at 4 --candidates popularity:9 --out $(DEMO)/catalog

$(DEMO)/model/exits.json: $(DEMO)/catalog/catalog.json $$(call imports,$(MOVIELENS)/train.py)
# A head after the last layer alone; thirty-two films behind one prefix.
	$(BIN)/python $(MOVIELENS)/train.py --catalog $(DEMO)/catalog --out $(DEMO)/model --exits 6 \
	  --epochs $(EPOCHS) --slate 32 --batch-tokens 1600

$(DEMO)/checkpoint/exits.json: $(DEMO)/model/exits.json src/rexit/cli/make/heads.py $$(call imports,exporter/heads/frozen_heads.py)
	$(BIN)/rexit heads $(DEMO)/model --catalog $(DEMO)/catalog --out $(DEMO)/checkpoint --exits auto:4 --keep-last \
	  --max-slates 1000 --validation-slates 400

$(DEMO)/bundle/manifest.json: $(DEMO)/checkpoint/exits.json \
    src/rexit/cli/make/export.py src/rexit/cli/make/compile.py $$(call imports,exporter/export.py exporter/engine/compile.py)
	rm -rf $(DEMO)/bundle
# Judged by 150 slates, which is enough for such a small loss.
	$(BIN)/rexit export $(DEMO)/checkpoint --catalog $(DEMO)/catalog --out $(DEMO)/bundle --precision fp32,int8 --quality-slates 150
	$(BIN)/rexit export $(DEMO)/checkpoint --catalog $(DEMO)/catalog --out $(DEMO)/bundle --target tensorrt --precision fp16,int8 \
	  --quality-slates 150
# For a GPU that this machine may lack: compiled by TensorRT-RTX, not run.
	$(BIN)/rexit compile $(DEMO)/bundle --compute-capability 8.6

# What calibrates also runs the compiled runtime.
$(POLICY): $(DEMO)/bundle/manifest.json $(BUILD)/.installed src/rexit/cli/make/calibrate.py $$(call imports,calibration/calibration.py)
# Ten of a hundred films are shown. The tables have the log loss of the labels, among them nine films drawn for each like.
	$(BIN)/rexit calibrate $(DEMO)/bundle --catalog $(DEMO)/catalog --metric ndcg@10 --top-k 10 --slate 100 --max-drop 0.01 \
	  --negative-rate 1

$(DEMO)/summary.json: $(POLICY) $(BUILD)/example/.built $$(call imports,$(MOVIELENS)/summary.py benchmarks/ranking/baselines.py) \
    src/rexit/cli/check/bench.py $$(call imports,src/rexit/measure.py)
	$(BIN)/python $(MOVIELENS)/summary.py $(DEMO) --program $(BUILD)/example/rexit_score
