"""The laboratory: virtual hosts and virtual time, real namespaces, a capture on the wire, and the demo.

`netns` and `capture` make real networks and watch them (root), `virtual` and `stack` make networks and hosts
inside one process (anybody), `story` tells the same story over either, `demo` shows it. `transfer` is what
runs inside a namespace to make traffic; `needs` says what this machine lacks for one or the other.
"""
