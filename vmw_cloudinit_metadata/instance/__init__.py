"""Instance data: what an operator or a driver writes becomes the documents of NoCloud. Pure.

    values, parsing     values as YAML and JSON have them; the text of a file -> a mapping
    metadata, network, userdata    what each of these may hold, and what is wrong with it
    model, nocloud      mapping -> InstanceData -> documents
    advice, distinct    warnings; values that no two VMs should share

Imports go from the lower lines to the upper ones; fault, secrecy, counts and documents are below
them all.
"""
