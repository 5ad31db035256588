"""MANet on MA-52: the recipe of the paper (Guo et al., "Benchmarking Micro-action Recognition", TCSVT 2024).

python -m manet_jax.main --config configs/ma52.py --workdir runs/ma52 --config.data.manual_dir=/data/MA-52

The paper reports 61.33 % action top-1 and 65.59 % F1 mean on the test set. Without MA-52: configs/ma52_synthetic.py.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    config.seed = 0  # of weights, order, frames, crops, flips, dropout

    # The network. TSN is shift=False, se=False, embedding=False; TSM is se=False, embedding=False.
    config.model = ml_collections.ConfigDict()
    config.model.name = "manet"  # of manet_jax.models.MODELS; the fields below but `embedding` are its own options
    config.model.embedding = True  # joint-embedding head; its size follows the label vectors
    config.model.depth = 50  # layers: 50, 101, or 14 for small machines
    config.model.width = 64  # channels after the first convolution
    config.model.shift = True  # temporal shift in every bottleneck
    config.model.shift_div = 8  # 1 / shift_div of the channels move in each direction of time
    config.model.se = True  # squeeze-and-excitation in every bottleneck
    config.model.dropout = 0.5  # share of pooled features that is dropped
    config.model.dtype = "float32"  # of the computation; "bfloat16" is faster on TPUs and recent GPUs
    config.model.remat = False  # compute activations again for the gradient: less memory, slower steps

    # What the network sees of a video.
    config.clip = ml_collections.ConfigDict()
    config.clip.num_frames = 8
    # "segments": one frame from each of num_frames equal segments of the video. "dense": frames frame_interval apart,
    # from a random start in training and in the middle in evaluation; a video that is shorter than that is "spread"
    # over the clip, its frames in order and some of them repeated, or continues with its start ("wrap", as mmaction2).
    config.clip.sampling = "segments"
    config.clip.frame_interval = 1  # for "dense": frames of the video from one of the clip to the next
    config.clip.short_videos = "spread"  # for "dense"
    config.clip.short_side = 256  # pixels of the frames' shorter side before cropping
    config.clip.crop_size = 224  # pixels of the network's input
    config.clip.crop_scales = (1.0, 0.875, 0.75, 0.66)  # sides of training crops, as shares of the short side
    config.clip.center_crop_first = False  # training crops are cut from the center crop, and scales are shares of that
    config.clip.mean = (123.675, 116.28, 103.53)  # of the pixels, RGB, 0..255, that the weights were trained with
    config.clip.std = (58.395, 57.12, 57.375)

    # Where the weights come from. The paper starts from ImageNet: python -m manet_jax.pretrained resnet50.pth DIR
    config.init_from = ""  # a workdir: of a run, or of converted weights; "": fresh weights

    # Joint-embedding loss.
    # "": means of the words' GloVe 6B.50d vectors, shipped; or an .npy table, a GloVe text file, or "random": a fixed
    # vector for each name, for names without English words.
    config.label_vectors = ""
    config.embedding_weight = 50.0  # of the joint-embedding loss beside the cross-entropy

    config.label_smoothing = 0.0  # share of a cross-entropy's target that is spread over all classes

    # Rare classes in training (docs/training.md, The long tail).
    config.class_balance = ml_collections.ConfigDict()
    config.class_balance.sampling = 1.0  # a class of N clips is drawn like N^sampling: 1 takes each clip once a pass
    config.class_balance.effective_number = 0.0  # beta of the classes' weights (1 - beta) / (1 - beta^N); 0: none
    config.class_balance.logit_adjustment = 0.0  # tau, of tau * log share of a class added to its logit in the loss
    config.class_balance.focal = 0.0  # gamma of the focal loss; 0: none
    config.class_balance.soft_f1 = 0.0  # weight of 1 - soft macro F1 of each batch
    # Body groups in training.
    config.body_groups = ml_collections.ConfigDict()
    config.body_groups.head = 0.0  # weight of the cross-entropy of a head of body groups; 0: no such head
    config.body_groups.consistency = 0.0  # weight of that of the actions' probabilities, summed into groups
    config.body_groups.label_smoothing = 0.0  # share of a target that is spread over the classes of its body group

    # Stronger augmentation of training clips, for transformers; every frame of a clip is changed alike.
    config.augmentation = ml_collections.ConfigDict()
    config.augmentation.operations = 0  # operations of RandAugment a clip; 0: none
    config.augmentation.magnitude = 7.0  # of them, 0..10
    config.augmentation.erasing = 0.0  # share of clips of which a box is erased
    config.augmentation.repeats = 1  # clips of a video that follow each other in a batch; an epoch has as many more
    # Mixtures of two clips and of their targets; with both, each batch gets one of them.
    config.mixing = ml_collections.ConfigDict()
    config.mixing.mixup = 0.0  # alpha of the Beta distribution of the first clip's share; 0: none
    config.mixing.cutmix = 0.0  # the same for the area outside the box that the second clip fills

    # Clips with several labels (configs/ma52_pro.py, configs/mma52.py): how the imbalance of classes is met.
    config.multilabel = ml_collections.ConfigDict()
    config.multilabel.loss = "plain"  # binary cross-entropy; "weighted" or "asymmetric"

    # Emotions, where the data have them (configs/ma52_pro.py).
    config.emotion = ml_collections.ConfigDict()
    config.emotion.form = ""  # "appearance", "micro_action" or "fused"; "": no emotions are recognised
    config.emotion.training = "joint"  # with the micro-actions, or "after": the network of init_from stays as it is
    config.emotion.weight = 1.0  # of the emotions' cross-entropy beside the losses of micro-actions
    config.emotion.appearance_from = ""  # for "fused": a workdir with weights of the network of appearance
    # The network of appearance; dtype and remat are those of config.model.
    config.emotion.model = ml_collections.ConfigDict()
    config.emotion.model.name = "manet"
    config.emotion.model.depth = 50
    config.emotion.model.width = 64
    config.emotion.model.shift = False  # it sees each frame by itself
    config.emotion.model.se = False
    config.emotion.model.dropout = 0.5
    # What it sees.
    config.emotion.clip = ml_collections.ConfigDict()
    config.emotion.clip.num_frames = 2  # of the clip's frames
    config.emotion.clip.box = (0.0, 0.0, 1.0, 1.0)  # top, left, bottom, right of the part, shares of the frame
    config.emotion.clip.short_side = 256  # pixels of that part's shorter side before cropping
    config.emotion.clip.crop_size = 224  # pixels of the network's input
    config.emotion.clip.crop_scales = (1.0, 0.875)  # sides of training crops, as shares of the short side

    # The release trains with 10 clips on each GPU; scale the learning rate with the batch size.
    config.batch_size = 10  # clips a step, over all devices
    config.accumulate = 1  # parts of each device's clips, computed one after the other: less memory, slower steps
    config.num_epochs = 80.0
    config.ema_decay = 0.0  # of a mean of the weights, which is evaluated and saved in their place; 0: none
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "sgd"  # or "adamw"; "muon" learns in the fewest steps from fresh weights
    config.optimizer.learning_rate = 0.00125
    config.optimizer.momentum = 0.9  # of "sgd"
    config.optimizer.nesterov = False  # of "sgd": Nesterov's momentum
    config.optimizer.betas = (0.9, 0.999)  # of "adamw", and in "muon" of all but kernels
    config.optimizer.weight_decay = 1e-4  # none on biases, norms, class tokens and tables of positions
    config.optimizer.clip_norm = 20.0  # largest norm of the gradient; 0: no clipping
    config.optimizer.head_lr_multiplier = 5.0  # of the learning rate of one layer of the heads
    # Which layer: "last" (as released: the joint-embedding head's second layer, or the classifier in a model without
    # that head) or "classifier".
    config.optimizer.head = "last"
    config.optimizer.layer_decay = 1.0  # the learning rate of a layer over that of the next one; 1: the same for all
    config.schedule = ml_collections.ConfigDict()
    config.schedule.name = "step"  # or "cosine"
    config.schedule.decay_epochs = (30.0, 60.0)  # for "step": when the rate falls
    config.schedule.decay_factor = 0.1  # for "step": by what
    config.schedule.warmup_epochs = 0.0  # the rate rises linearly over so many epochs

    # Data. The set is built on the first run (python -m tfds_ma52 does it by hand) and kept in data_dir.
    config.data = ml_collections.ConfigDict()
    config.data.manual_dir = "data/ma52"  # the folder with the clips and the lists
    config.data.data_dir = ""  # where the built set is kept; "": <manual_dir>/tfds
    # How clips are stored: "jpeg_256" is quicker to read and 13 times as large, "original" keeps the files as they
    # are, much slower to read. For other layouts of the folder "pro_h264_256", "pro_jpeg_256", "pro_original"
    # (annotation files), "mma52_h264_256" and "mma52_jpeg_256" (MMA-52), "annotated_h264_256" and "annotated_jpeg_256"
    # (ELAN, BORIS).
    config.data.builder_config = "h264_256"
    config.data.video_folder = ""  # a split's clips in manual_dir, such as "clips_{split}"; "": the default locations
    config.data.list_file = ""  # a split's list in manual_dir, such as "lists/{split}.txt"; "": the default locations
    config.data.boxes = ""  # a csv file of boxes, video,x0,y0,x1,y1[,frame], that clips are cropped to; "": no cropping
    config.data.frame_pattern = ""  # of the names in folders of images, such as "img_{:05d}.jpg"; "": all images
    config.data.allow_damaged = 0  # how many damaged clips a build may leave out
    config.data.train_splits = ("train",)  # ("train", "val") trains on both; then no split but test tells how well
    config.data.read_threads = 2  # batches decoded at once
    config.data.prefetch_batches = 2  # batches waiting, on the host and on the devices
    # How untrimmed videos (MMA-52's, annotated ones) become clips.
    config.data.windows = ml_collections.ConfigDict()
    config.data.windows.window = 2.0  # seconds of a clip
    config.data.windows.stride = 1.0  # seconds from one clip's start to the next
    config.data.windows.min_overlap = 0.5  # of clip and action, over the shorter of them, from which a label counts
    # Clips that tfds_ma52.synthetic makes in manual_dir if it is missing.
    config.data.synthetic = ml_collections.ConfigDict()
    config.data.synthetic.size = 0.0  # their number as a share of MA-52's; 0: none, the data are real
    config.data.synthetic.pro = False  # several micro-actions and an emotion in every clip
    config.data.synthetic.untrimmed = False  # videos as MMA-52's, for the builder configs of these; size 1 has 7.5 h
    config.data.synthetic.subjects = "shared"  # between train and val, as in MA-52, or "disjoint"
    config.data.synthetic.short_side = 256  # pixels
    config.data.synthetic.frame_rate = 30  # frames a second: 30, 15 or 10
    config.data.synthetic.seed = 0

    # Evaluation; the best checkpoint is the one with the highest F1 mean (mAP for
    # several labels, macro F1 of the emotions where they are recognised).
    config.eval = ml_collections.ConfigDict()
    config.eval.split = "val"
    config.eval.batch_size = 16  # clips, over all devices
    config.eval.every_epochs = 5.0
    # Probabilities are averaged over num_clips x num_crops views of a video, and their mirror images with `flip`.
    config.eval.num_clips = 1  # clips, spread over the video
    config.eval.num_crops = (
        1  # the centre; 3: side by side along the longer side; 10: corners, centre, all mirrored too
    )
    config.eval.flip = False

    config.log_every_steps = 50
    config.checkpoint_every_steps = 500  # besides after every evaluation

    config.parallel = "shard_map"  # or "pmap": how a step is mapped over the devices; same numbers
    config.sync_batch_norm = False  # BatchNorm over the whole batch rather than each device's part
    return config
