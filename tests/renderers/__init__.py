"""What cloud-init's renderers make of a network-config: the judge of what the short form promises."""
