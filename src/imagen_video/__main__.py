from imagen_video.cli import main

main()
