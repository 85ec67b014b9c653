#!/usr/bin/env bash
# Deletes what `make up` deployed and stops its server. Containers outlive a server, so pods are deleted first.
set -euo pipefail
data=$2 pid_file=$2/server.pid
export KUBECONFIG=$data/kubeconfig
[ -f "$pid_file" ] && kill -0 "$(cat "$pid_file")" 2>/dev/null || { echo "not running"; exit 0; }
if command -v kubectl >/dev/null; then
  kubectl delete --ignore-not-found -f "$(dirname "$(realpath "$0")")/hello/hello.yaml"
  kubectl wait --for=delete pod -l app=hello --timeout=30s || true
fi
pid=$(cat "$pid_file")
kill "$pid"
for _ in $(seq 150); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
rm -f "$pid_file"
echo "stopped"
