"""Update rules, one file each, each one pure function of tensors."""
