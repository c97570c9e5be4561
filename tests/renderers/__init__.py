"""What cloud-init's renderers make of a network-config: they judge the short form."""
