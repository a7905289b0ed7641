"""Who runs where: pairs of a prefill and a decode worker."""
