"""What joins rka_fast to other libraries; each module needs the library it is named after."""
