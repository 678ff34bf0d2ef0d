"""`tickwise demo`: the whole system on one machine, shown as it happens and counted from its topics."""
