"""comity held against software that nobody here wrote: servers, client libraries, hostile peers.

Owns the processes, certificates and scripted clients that such a test needs, and the tests.
It never imports comity: a server is only ever seen through its sockets and its command line.
"""
