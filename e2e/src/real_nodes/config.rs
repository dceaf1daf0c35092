//! The settings of a node's programs, for machines that grant less than usual.

use std::{net::Ipv4Addr, path::Path};

use serde_json::{Value, json};

use super::{KUBELET_PORT, text};
use crate::{images, programs::NodePrograms};

/// The network of a node's Pods: a bridge in the machine, addresses by a file a Pod, and ports of the machine for those that ask.
pub(super) fn network(pods: &str) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": "pods",
            "isGateway": true,
            "ipMasq": false,
            "hairpinMode": true,
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": pods }]], "routes": [{ "dst": "0.0.0.0/0" }] },
        }, {
            "type": "portmap",
            // As kube-proxy does it.
            "backend": "iptables",
            "capabilities": { "portMappings": true },
        }],
    })
}

/// Folders and socket are the usual ones: they are the machine's own.
pub(super) fn containerd(network: &Path, programs: &NodePrograms) -> String {
    format!(
        r#"version = 3
disabled_plugins = ["io.containerd.snapshotter.v1.blockfile", "io.containerd.nri.v1.nri"]
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{pause}"
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  # Where not even root may lower the score of a process, no container would start.
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{plugins}"]
  conf_dir = "{network}"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "{runc}"
  SystemdCgroup = false
"#,
        pause = images::PAUSE,
        plugins = text(&programs.network_plugins),
        network = text(network),
        runc = text(&programs.runc),
    )
}

/// Takes clients that the super cluster knows, and asks it what they may.
pub(super) fn kubelet(address: Ipv4Addr, ca: &Path, certificate: &Path, key: &Path, group: &str) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "port": KUBELET_PORT,
        "readOnlyPort": 0,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": text(ca) },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": text(certificate),
        "tlsPrivateKeyFile": text(key),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{group}"),
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "resolvConf": "",
        "clusterDomain": "cluster.local",
        "makeIPTablesUtilChains": false,
        // Tests look at what has just become true.
        "nodeStatusUpdateFrequency": "5s",
        // The disk and memory are shared with the rest of the machine.
        "evictionHard": { "memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
        "imageGCHighThresholdPercent": 100,
        // An image that somebody tried to pull anew is still the one that was brought here.
        "imagePullCredentialsVerificationPolicy": "NeverVerify",
    })
}
