"""A service of sentence-transformers' CrossEncoder, as it is written by hand: `POST /rerank` with `query` and `documents`.

    cross_encoder_service.py SETUP PORT     SETUP: as cross_encoder.py takes it, in JSON, with `batch`

One call at a time: a compiled model of OpenVINO refuses a second one meanwhile. More at once are more processes.
"""

from __future__ import annotations

import json
import sys
from threading import Lock
from typing import Any

import torch
import uvicorn
from cross_encoder import loaded
from fastapi import FastAPI

app, computing = FastAPI(), Lock()
setup: dict[str, Any] = json.loads(sys.argv[1])
torch.set_num_threads(setup["threads"])
model = loaded(setup)


@app.get("/health")
def health() -> dict[str, str]:
    return {}


@app.post("/rerank")
def rerank(body: dict[str, Any]) -> dict[str, Any]:
    pairs = [(body["query"], document) for document in body["documents"]]
    with computing:
        scores = model.predict(pairs, batch_size=setup["batch"], show_progress_bar=False).tolist()
    order = sorted(range(len(scores)), key=lambda n: -scores[n])
    return {"results": [{"index": n, "relevance_score": scores[n]} for n in order]}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
