#!/usr/bin/env bash
# Starts a one-node cluster in the background, loads and deploys examples/hello, prints the URL. Run by `make up`.
set -euo pipefail
keles=$(realpath "$1") data=$2 here=$(dirname "$(realpath "$0")")
[ "$(id -u)" = 0 ] || { echo "make up needs root: containers are set up by it" >&2; exit 1; }
mkdir -p "$data"
export KUBECONFIG=$data/kubeconfig
pid_file=$data/server.pid log=$data/server.log
# A killed server may be on the process list a moment longer, as a zombie or on its way out.
alive() { [ -f "$pid_file" ] && state=$(cut -d' ' -f3 "/proc/$(cat "$pid_file")/stat" 2>/dev/null) && [ "$state" != Z ] && [ "$state" != X ]; }
started=
start() {
  [ -z "$started" ] || { tail -5 "$log" >&2; exit 1; }
  started=yes
  setsid "$keles" server --data-dir "$data" >>"$log" 2>&1 </dev/null &
  echo $! >"$pid_file"
}
alive || start
ready() { [ -f "$KUBECONFIG" ] && curl -sf --cacert "$data/pki/ca.crt" https://127.0.0.1:6443/readyz >/dev/null; }
for _ in $(seq 300); do alive || start; ready && break; sleep 0.1; done
ready || { echo "not ready after 30 s, see $log" >&2; exit 1; }
"$keles" load -i "$here/../target/hello.tar" --data-dir "$data"
if ! command -v kubectl >/dev/null; then
  echo "The cluster runs. kubectl is not on this machine: install it, then"
  echo "  export KUBECONFIG=$KUBECONFIG; kubectl apply -f examples/hello/hello.yaml"
  exit 0
fi
kubectl apply -f "$here/hello/hello.yaml"
kubectl rollout status deployment/hello --timeout=60s
for _ in $(seq 50); do curl -sf http://127.0.0.1:30080/ && break; sleep 0.1; done
cat <<EOF

The cluster runs (log: $log). The page is at http://127.0.0.1:30080/
Use it with:   export KUBECONFIG=$KUBECONFIG
               kubectl get nodes,pods,services
Stop it with:  make down
EOF
