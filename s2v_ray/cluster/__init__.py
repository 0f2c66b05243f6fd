"""What a cluster needs beside Ray: manifests that are checked, an agent on spot nodes, the command that submits a job. None imports ray."""
