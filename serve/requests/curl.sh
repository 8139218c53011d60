#!/bin/sh
# Requests to a running service: serve/requests/curl.sh [http://127.0.0.1:8000]
# With a token: FMLP_API_TOKEN=… serve/requests/curl.sh
set -eu
url=${1:-http://127.0.0.1:8000}
here=$(dirname "$0")
picture=$here/../../distributed_fmlp/serving/example.png

ask() {
    curl --silent --show-error --fail-with-body \
        ${FMLP_API_TOKEN:+-H "Authorization: Bearer $FMLP_API_TOKEN"} "$@"
    echo
}

echo "# is it ready?"
ask "$url/v2/health/ready"
echo "# which model is it?"
ask "$url/model"
echo "# a picture of any size"
ask --data-binary "@$picture" -H 'Content-Type: image/png' "$url/predict"
echo "# two pictures at once"
ask -F "image=@$picture;type=image/png" -F "image=@$picture;type=image/png" "$url/predict"
echo "# raw pixels: 784 bytes an image, and where the model came from in the headers"
head -c 1568 /dev/urandom |
    ask --data-binary @- -H 'Content-Type: application/octet-stream' -D - "$url/predict?trace=true"
echo "# Open Inference Protocol, version 2"
pixels=$(printf '0,%.0s' $(seq 783))0
ask -H 'Content-Type: application/json' "$url/v2/models/fmlp/infer" --data-binary @- <<JSON
{"inputs": [{"name": "images", "shape": [1, 784], "datatype": "UINT8", "data": [$pixels]}]}
JSON
