//! The kube client over HTTPS or in-process, kubeconfig, shared informers.
