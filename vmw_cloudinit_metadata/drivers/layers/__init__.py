"""What several VMs share: the files of `layers/`, and inventories, which hold many VMs each."""
