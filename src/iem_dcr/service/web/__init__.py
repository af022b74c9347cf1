"""The bring-up page: read-only views of the meters that this process drives, over HTTP.

Nothing here asks a meter anything: what is shown is what its driver reads anyway.
"""
