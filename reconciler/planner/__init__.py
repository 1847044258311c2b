"""Desired x Observed -> Plan. Pure: no clock, no files, no registry, no drivers."""
