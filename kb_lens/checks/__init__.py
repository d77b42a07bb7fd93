"""Checks: are these neurons about bias, and do they do more than other neurons do?"""
