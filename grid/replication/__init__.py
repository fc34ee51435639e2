"""Replicas of a partition as pure state machines: messages, time and finished I/O in, effects out.

    controller.py  who is primary, who is in sync, in which epoch; moves; persisted before announced
    replica.py     one copy of one partition: takes entries, acknowledges, commits, steps down
    journal.py     the entries it has, by position and epoch
    messages.py    what they tell each other, and what they ask of their process
    placement.py   which shard keeps which copy

No clock, no randomness, no I/O, no asyncio in here: shards and the simulator (tests/simulation) run the same code.

Sources: Lin et al., "PacificA" (MSR-TR-2008-25): the configuration is changed by one master, all of the in-sync set acknowledge; Ongaro,
Ousterhout, "In Search of an Understandable Consensus Algorithm" (USENIX ATC 2014), 5.3: how a log is matched; Gray, Cheriton, "Leases"
(SOSP 1989): reads by one copy.
"""
