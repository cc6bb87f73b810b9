# make demo: MovieLens 100k from ratings to early-exit scores, on a machine without a GPU. Included by the Makefile at the root.
#
# A hundred films are ranked and ten shown: those that the look-up retrieves for a user, as a service does. The model is SmolLM2's
# first four layers. EPOCHS=0.3 trains a third as long.

MOVIELENS := examples/movielens
DEMO := $(BUILD)/demo
EPOCHS ?= 1
POLICY := $(DEMO)/bundle/variants/cpu-int8/policy.json

demo: $(DEMO)/summary.json $(DEMO)/.verified
	@$(BIN)/python $(MOVIELENS)/summary.py $(DEMO) --show

$(DEMO)/data/ml-100k.inter: $(MOVIELENS)/fetch.py | $(BUILD)/.installed
	$(BIN)/python $(MOVIELENS)/fetch.py $(DEMO)/data

$(DEMO)/smollm2/config.json: examples/finetune/fetch.py | $(BUILD)/.installed
	$(BIN)/python examples/finetune/fetch.py $(DEMO)/smollm2

$(DEMO)/model/config.json: $(DEMO)/smollm2/config.json $(DEMO)/data/ml-100k.inter $(MOVIELENS)/prompt.toml \
    src/rexit/doors/cli/make/tokenizer.py $$(call imports,$(MOVIELENS)/model.py exporter/prompt/pieces.py)
	$(BIN)/rexit tokenizer $(DEMO)/data/ml-100k.item $(DEMO)/data/ml-100k.user --template $(MOVIELENS)/prompt.toml --out $(DEMO)/words
	$(BIN)/python $(MOVIELENS)/model.py $(DEMO)/smollm2 $(DEMO)/words $(DEMO)/data/ml-100k.inter $(DEMO)/data/ml-100k.item $(DEMO)/model

$(DEMO)/catalog/catalog.json: $(DEMO)/model/config.json $(MOVIELENS)/prompt.toml \
    src/rexit/doors/cli/make/index.py $$(call imports,exporter/index.py)
	rm -rf $(DEMO)/checkpoint.training
	$(BIN)/rexit index --interactions $(DEMO)/data/ml-100k.inter --items $(DEMO)/model/films.parquet --users $(DEMO)/data/ml-100k.user \
	  --tokenizer $(DEMO)/model --template $(MOVIELENS)/prompt.toml --positive-at 4 --candidates retrieved:100 --out $(DEMO)/catalog

$(DEMO)/checkpoint/exits.json: $(DEMO)/catalog/catalog.json src/rexit/doors/cli/make/train.py $$(call imports,exporter/training/fine_tuning.py)
	$(BIN)/rexit train $(DEMO)/model --catalog $(DEMO)/catalog --out $(DEMO)/checkpoint --exits 1,2,4 --epochs $(EPOCHS) \
	  --slate 50 --batch-tokens 4000 --rate 5e-4

$(DEMO)/bundle/manifest.json: $(DEMO)/checkpoint/exits.json \
    src/rexit/doors/cli/make/export.py src/rexit/doors/cli/make/compile.py $$(call imports,exporter/export.py exporter/engine/compile.py)
	rm -rf $(DEMO)/bundle
# Judged by all users who choose: with fewer the interval of int8's small loss is too wide. Its gate refuses an exit after layer 2.
	$(BIN)/rexit export $(DEMO)/checkpoint --catalog $(DEMO)/catalog --out $(DEMO)/bundle --exits 1,4 --precision fp32,int8 \
	  --quality-slates 0
	$(BIN)/rexit export $(DEMO)/checkpoint --catalog $(DEMO)/catalog --out $(DEMO)/bundle --exits 1,4 --target tensorrt \
	  --precision fp16 --quality-slates 40 --golden 4
# For a GPU that this machine may lack: compiled by TensorRT-RTX, not run.
	$(BIN)/rexit compile $(DEMO)/bundle --compute-capability 8.6

# What calibrates also runs the compiled runtime.
$(POLICY): $(DEMO)/bundle/manifest.json $(BUILD)/.installed src/rexit/doors/cli/make/calibrate.py $$(call imports,calibration/calibration.py)
	$(BIN)/rexit calibrate $(DEMO)/bundle --variant cpu-int8 --catalog $(DEMO)/catalog --metric ndcg@10 --top-k 10 --max-drop 0.01

$(DEMO)/summary.json: $(POLICY) $(BUILD)/example/.built $$(call imports,$(MOVIELENS)/summary.py benchmarks/ranking/baselines.py) \
    src/rexit/doors/cli/check/bench.py $$(call imports,src/rexit/upkeep/measure.py)
	$(BIN)/python $(MOVIELENS)/summary.py $(DEMO) --program $(BUILD)/example/rexit_score

# Last, since it checks the policy, too.
$(DEMO)/.verified: $(POLICY) $(DEMO)/summary.json $$(call imports,src/rexit/upkeep/checks.py)
	$(BIN)/rexit verify $(DEMO)/bundle
	@touch $@
