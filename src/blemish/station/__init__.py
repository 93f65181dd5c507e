"""The inspection station: a service that inspects images, remembers every decision and lets a person overrule it.

How a request goes: `api` reads the images, `engine` has them judged by the model's own thread, `recording` writes
pictures and rows, and only then the answer leaves. `serving` is the process around it.
"""
