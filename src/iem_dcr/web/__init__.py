"""The bring-up page: read-only views of the meters that this process drives, over HTTP.

It sends no requests to meters: what it shows is what their drivers read anyway. `server` has the table of paths,
`pages` answers them, `views` and `receipt_list` say what there is to show, and the templates where it stands.
"""
