raise ValueError("this plugin can't be imported")
