"""The command `feedmesh`: starts the embedded mesh, watches over it, fills it and calls it.

`up` supervises three children: Valkey, one Python process with every service (`embedded`), and Envoy. Other commands
find the mesh through the file mesh.json in its data directory. stdout is for data, stderr for people.
"""
