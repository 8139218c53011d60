"""A rival: FastAPI on uvicorn, one process, each request computed by itself."""

from __future__ import annotations

import sys

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from serving_network import answer, images_of, load_network

app = FastAPI()
network = load_network()


class Instances(BaseModel):
    """Images of 784 whole numbers."""

    instances: list[list[int]]


@app.post("/raw")
async def raw(request: Request) -> JSONResponse:
    """Raw bytes in, JSON out."""
    probabilities, _ = network(images_of(await request.body()))
    return JSONResponse(answer(network, probabilities))


@app.post("/json")
async def from_json(given: Instances) -> JSONResponse:
    """JSON in and out."""
    probabilities, _ = network(np.array(given.instances, np.uint8))
    return JSONResponse(answer(network, probabilities))


@app.post("/binary")
async def binary(request: Request) -> Response:
    """Raw bytes in, float32 out."""
    probabilities, _ = network(images_of(await request.body()))
    return Response(probabilities.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
