"""The inspection station: a service that inspects images, remembers every decision and lets a person overrule it.

How a request goes: `api` reads the images, `models` finds the `worker` whose thread judges them, `station` writes
pictures (`archive`) and rows (`inspections`), and only then the answer leaves. `serving` is the process around it.
"""
