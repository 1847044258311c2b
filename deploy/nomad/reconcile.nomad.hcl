# reconcile on every client of Nomad that has the metadata reconcile = "true", as what the client's systemd would run.
#
#     nomad job run -var repository=https://git.example/images.git deploy/nomad/reconcile.nomad.hcl
#
# raw_exec, because the agent creates devices and files of the host: the client needs `plugin "raw_exec" { config { enabled = true } }`,
# and the command at /usr/local/bin/reconcile (README.md, or the Ansible role with reconcile_units: none).

variable "repository" {
  type        = string
  description = "Git repository of the manifests."
}

variable "branch" {
  type    = string
  default = "main"
}

variable "ring" {
  type        = string
  default     = "fleet"
  description = "Label of the hosts, by which manifests select them."
}

job "reconcile" {
  type     = "system"
  priority = 90

  constraint {
    attribute = "${meta.reconcile}"
    value     = "true"
  }

  # One client at a time; a failed one stops the update of the others.
  update {
    max_parallel     = 1
    min_healthy_time = "30s"
    healthy_deadline = "5m"
    stagger          = "30s"
  }

  group "host" {
    # The agent needs no server of Nomad: it goes on while the client is disconnected.
    disconnect {
      lost_after = "720h"
      replace    = false
    }

    restart {
      attempts = 10
      interval = "10m"
      delay    = "15s"
      mode     = "delay"
    }

    # Clones before the agent starts, and swaps one symlink for each commit.
    task "manifests" {
      driver = "raw_exec"
      user   = "root"

      lifecycle {
        hook    = "prestart"
        sidecar = true
      }

      config {
        command = "/bin/sh"
        args    = ["${NOMAD_TASK_DIR}/pull.sh"]
      }

      template {
        destination = "local/pull.sh"
        perms       = "0755"
        data        = <<EOT
set -eu
cd "$NOMAD_ALLOC_DIR"
[ -d repository ] || git clone --quiet --no-checkout "${var.repository}" repository
while :; do
  if git -C repository fetch --quiet origin "${var.branch}"; then
    revision=$(git -C repository rev-parse FETCH_HEAD)
    [ -d "$revision" ] || git -C repository worktree add --quiet --detach "../$revision" "$revision"
    if [ "$(readlink current)" != "$revision" ]; then
      ln -s "$revision" next
      mv -T next current
      for old in */; do
        case "$old" in repository/ | current/ | data/ | logs/ | tmp/ | "$revision"/) ;; *) git -C repository worktree remove --force "../$old" ;; esac
      done
    fi
  fi
  sleep 30
done
EOT
      }

      resources {
        cpu    = 50
        memory = 64
      }
    }

    task "reconcile" {
      driver       = "raw_exec"
      user         = "root"
      kill_timeout = "90s"
      kill_signal  = "SIGTERM"

      config {
        command = "/usr/local/bin/reconcile"
        args    = ["--progress", "none", "--metrics-port", "9464"]
      }

      env {
        RECONCILER_MANIFESTS = "${NOMAD_ALLOC_DIR}/current"
        RECONCILER_STATE     = "/var/lib/reconciler"
        RECONCILER_HOST_FILE = "${NOMAD_TASK_DIR}/host.yaml"
      }

      template {
        destination = "local/host.yaml"
        perms       = "0644"
        data        = <<EOT
name: "{{ env "node.unique.name" }}"
labels: {ring: "${var.ring}"}
policy:
  pinned: required
EOT
      }

      resources {
        cpu        = 500
        memory     = 512
        memory_max = 4096
      }
    }
  }
}
