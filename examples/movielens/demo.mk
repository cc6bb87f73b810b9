# make demo: MovieLens 100k from ratings to early-exit scores, on a machine without a GPU. Included by the Makefile at the root.
#
# EPOCHS=0.7 trains half as long (docs/movielens.md has both settings' figures).

MOVIELENS := examples/movielens
DEMO := build/demo
EPOCHS ?= 1.5
POLICY := $(DEMO)/bundle/variants/cpu-fp32/policy.json
INDEX_SOURCES := $(addprefix exporter/,index.py interactions.py splits.py lightgcn.py neighbours.py template.py tables.py)
EXPORT_SOURCES := $(addprefix exporter/,segment.py graph.py targets.py export.py golden.py quality.py ranges.py parity.py) $(wildcard exporter/passes/*.py)

demo: $(DEMO)/summary.json
	@$(BIN)/python $(MOVIELENS)/summary.py $(DEMO) --show

$(DEMO)/data/ml-100k.inter: $(MOVIELENS)/fetch.py | build/.installed
	$(BIN)/python $(MOVIELENS)/fetch.py $(DEMO)/data

$(DEMO)/tokenizer/tokenizer.json: $(DEMO)/data/ml-100k.inter $(MOVIELENS)/tokenizer.py $(MOVIELENS)/prompt.toml
	$(BIN)/python $(MOVIELENS)/tokenizer.py $(DEMO)/data $(DEMO)/tokenizer

$(DEMO)/catalog/catalog.json: $(DEMO)/tokenizer/tokenizer.json $(MOVIELENS)/prompt.toml $(INDEX_SOURCES)
	$(BIN)/rexit index --interactions $(DEMO)/data/ml-100k.inter --items $(DEMO)/data/ml-100k.item --users $(DEMO)/data/ml-100k.user \
	  --tokenizer $(DEMO)/tokenizer --template $(MOVIELENS)/prompt.toml --positive-at 4 --out $(DEMO)/catalog

$(DEMO)/checkpoint/exits.json: $(DEMO)/catalog/catalog.json $(MOVIELENS)/train.py
	$(BIN)/python $(MOVIELENS)/train.py --catalog $(DEMO)/catalog --out $(DEMO)/checkpoint --epochs $(EPOCHS)

$(DEMO)/bundle/manifest.json: $(DEMO)/checkpoint/exits.json $(EXPORT_SOURCES)
	rm -rf $(DEMO)/bundle
	$(BIN)/rexit export $(DEMO)/checkpoint --catalog $(DEMO)/catalog --out $(DEMO)/bundle --precision fp32,int8
	$(BIN)/rexit export $(DEMO)/checkpoint --catalog $(DEMO)/catalog --out $(DEMO)/bundle --target tensorrt --precision fp16,int8 \
	  --quality-slates 200
# For a GPU that this machine need not have: compiled by TensorRT-RTX, not run.
	$(BIN)/rexit compile $(DEMO)/bundle --compute-capability 8.6

$(POLICY): $(DEMO)/bundle/manifest.json
	$(BIN)/rexit calibrate $(DEMO)/bundle --catalog $(DEMO)/catalog

$(DEMO)/summary.json: $(POLICY) build/example/.built $(MOVIELENS)/summary.py $(MOVIELENS)/baseline.py
	$(BIN)/python $(MOVIELENS)/summary.py $(DEMO) --program build/example/rexit_score
