"""What objects mean: `ObjectSet` ⇄ `PolicySet`. `reading` and `writing` put together what the other modules
do for one kind of object each."""
