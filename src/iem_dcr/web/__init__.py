"""The bring-up page: read-only views of the meters that this process drives, over HTTP.

The page sends no requests to meters: it shows what their drivers read anyway. `server` serves it, `pages` has
the paths and answers them, `views` and `receipts` provide the content, and the templates lay it out.
"""
