"""The one reader of users' files: text in any encoding that is named or marked, rows of any format,
what columns and labels mean."""
