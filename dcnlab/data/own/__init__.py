"""Users' folders (`data.name` own): which layout they have, and their images and labels in three splits."""
