#!/usr/bin/env bash
# Bookinfo on Pylot in a cluster of kind, from nothing to a page that is checked:
#
#   deploy/kind/run.sh            make all of it, or bring it up to date
#   deploy/kind/run.sh --delete   take the cluster away
#
# It needs docker, kind, kubectl, helm and curl. Every command goes to the context kind-pylot, so
# no other cluster is touched.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly cluster=pylot
readonly namespace=istio-system
readonly hub=pylot
readonly page=http://127.0.0.1:8080/productpage
tag=$(sed -n 's/^appVersion: *//p' deploy/chart/pylot/Chart.yaml)
readonly tag

kubectl() { command kubectl --context "kind-$cluster" "$@"; }
helm() { command helm --kube-context "kind-$cluster" "$@"; }
say() { printf '\n== %s\n' "$*"; }

need() {
    local program
    for program in "$@"; do
        if ! command -v "$program" >/dev/null; then
            echo "$0 needs $program" >&2
            exit 2
        fi
    done
}

make_cluster() {
    say "a cluster of three nodes"
    if ! kind get clusters | grep -qx "$cluster"; then
        kind create cluster --config deploy/kind/cluster.yaml --wait 180s
    fi
}

build_images() {
    say "images"
    local images=("$hub/controlplane:$tag" "$hub/proxy:$tag")
    docker build -f deploy/Dockerfile --target controlplane -t "$hub/controlplane:$tag" .
    docker build -f deploy/Dockerfile --target proxy -t "$hub/proxy:$tag" .
    local one app version
    for one in productpage-v1 details-v1 ratings-v1 reviews-v1 reviews-v2 reviews-v3; do
        app=${one%-*} version=${one##*-}
        images+=("pylot/examples-bookinfo-$one:1.0")
        docker build --build-arg "APP=$app" --build-arg "VERSION=$version" \
            -t "pylot/examples-bookinfo-$one:1.0" examples/bookinfo
    done
    kind load docker-image --name "$cluster" "${images[@]}"
}

install_pylot() {
    say "the control plane and the gateway"
    # Helm makes the definitions of Istio's kinds where there are none, and leaves those that are.
    helm upgrade --install pylot deploy/chart/pylot --namespace "$namespace" --create-namespace \
        --values deploy/kind/values.yaml
    kubectl label namespace "$namespace" --overwrite pod-security.kubernetes.io/enforce=restricted
    kubectl rollout status --namespace "$namespace" --timeout=180s deployment/istiod
    # Pods of the gateway are made when the injector answers; the first attempts may be refused.
    kubectl rollout status --namespace "$namespace" --timeout=300s deployment/istio-ingressgateway
}

deploy_bookinfo() {
    say "Bookinfo"
    kubectl label namespace default --overwrite istio-injection=enabled
    kubectl apply -f examples/bookinfo/platform/bookinfo.yaml
    kubectl apply -f examples/bookinfo/networking/destination-rule-all.yaml
    kubectl apply -f examples/bookinfo/networking/bookinfo-gateway.yaml
    kubectl wait --for=condition=Available --timeout=300s deployment --all
}

# The page holds a text, ten times in a row, within 60 s.
shows() {
    local end=$((SECONDS + 60)) seen=0
    while ((seen < 10)); do
        if curl --silent --fail --max-time 10 "$page" | grep -qF "$1"; then
            ((seen += 1))
        else
            seen=0
            sleep 1
        fi
        if ((SECONDS >= end)); then
            echo "$page does not always show $1" >&2
            exit 1
        fi
    done
}

check() {
    say "checks"
    shows "The Comedy of Errors"
    kubectl apply -f examples/bookinfo/networking/virtual-service-reviews-v3.yaml
    shows 'data-color="red"'
    kubectl delete -f examples/bookinfo/networking/virtual-service-reviews-v3.yaml
    # What `pylot validate` refuses, the webhook refuses.
    if kubectl apply -f deploy/kind/invalid.yaml; then
        echo "an invalid object was taken" >&2
        exit 1
    fi
    say "open $page"
}

case "${1:-}" in
"")
    need docker kind kubectl helm curl
    make_cluster
    build_images
    install_pylot
    deploy_bookinfo
    check
    ;;
--delete)
    need kind
    kind delete cluster --name "$cluster"
    ;;
*)
    echo "usage: $0 [--delete]" >&2
    exit 2
    ;;
esac
