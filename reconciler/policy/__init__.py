"""What this host permits to the authors of manifests: the rules, and the policy that is in force in this process."""
